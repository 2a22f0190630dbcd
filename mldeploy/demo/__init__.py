"""`mldeploy demo`: the main job, played on real data by the real commands, and measured."""
