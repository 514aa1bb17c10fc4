"""The only room that talks to anything but the API server: registries, and the pods' admin ports."""
