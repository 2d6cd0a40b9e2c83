"""Few-label segmentation and anomaly detection in CT and MR with pretrained autoencoders."""

__version__ = "0.1.0"
