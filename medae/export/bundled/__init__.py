"""Source that goes into the scripts of a MONAI bundle, which runs without medae: see `medae.export.carry`."""
