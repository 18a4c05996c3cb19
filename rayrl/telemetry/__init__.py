"""What a run says about itself: metrics, spans, trajectories on disk, the terminal. Nothing here influences training."""
