"""From a configuration to a checkpoint: data, models, methods, the training loop and its run folder."""
