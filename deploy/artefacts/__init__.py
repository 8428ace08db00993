"""What belongs to an exported file: its manifest, the ledger of gates, the lock, and what may be opened."""
