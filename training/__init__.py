"""How bundles are made: data, network, training, calibration, export and model card."""
