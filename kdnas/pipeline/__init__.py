"""The whole way, resumable: from a device class to an encoder and its link, stage by stage."""
