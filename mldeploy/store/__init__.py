"""The shared infrastructure: a bucket or a folder, the log in it, its blobs and the hosts' reports."""
