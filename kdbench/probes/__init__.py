"""What kept students are good for."""
