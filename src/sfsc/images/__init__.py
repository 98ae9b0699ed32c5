"""Reading image files into arrays, and writing them."""
