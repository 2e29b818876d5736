"""What every part of the house needs and nothing of the house is needed for."""
