"""The paper: attention unit, backbone, network, rival heads."""
