"""Where models come from: one module per kind of source folder, and the registry of them."""
