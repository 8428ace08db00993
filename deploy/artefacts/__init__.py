"""What lies beside an exported file: its manifest, the ledger of gates, the lock, and what may be opened."""
