"""What a run leaves on disk: files, states, and what tells one run from another."""
