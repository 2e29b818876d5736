"""How fast the engine is: measured against the loop that a researcher writes today, in one process."""
