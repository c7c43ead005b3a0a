"""How tensors are placed on workers: meshes, placements, the digit that a shard is, and the files that say so. No torch."""
