"""The process that has a device: executes the instructions of its sessions."""
