"""What this machine has, and what it lacks."""
