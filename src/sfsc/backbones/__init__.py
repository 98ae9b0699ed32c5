"""Dense networks: built in, of other packages, or of the user."""
