"""Fine-tunes: the clips that they read, the recipes, and the loop that trains them."""
