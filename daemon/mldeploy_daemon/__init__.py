"""The daemon of a host: keeper, agent, fronts, mirror. Nothing is imported here: the keeper is stdlib."""
