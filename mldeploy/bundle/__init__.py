"""Bundles: packing a model, its environment, the three gates, and the push that publishes it."""
