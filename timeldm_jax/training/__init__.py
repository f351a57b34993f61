"""Training: losses, the state, the step of each stage, devices, checkpoints and the loop."""
