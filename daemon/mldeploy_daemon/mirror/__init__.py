"""The mirror: sends copies of answered requests to shadows, compares the answers, and counts for drift."""
