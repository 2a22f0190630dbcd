"""The daemon of a host: keeper, agent and fronts. Nothing is imported here: the keeper is stdlib only."""
