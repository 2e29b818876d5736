"""Fair weights: the same trials, epochs and seeds for every method, chosen on images that were held out."""
