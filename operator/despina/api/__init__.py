"""The API group's types: pydantic models, the vocabulary of conditions, and the CRD made from them."""

GROUP = "despina.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
