"""The operator's configuration: the only reader of the environment."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, TypeAdapter
from pydantic_settings import BaseSettings, SettingsConfigDict

from despina.api.base import ServerStr
from despina.api.credentials import Credentials
from despina.api.placement import PlacementProfile
from despina.decide.observed import Defaults
from despina.wire.logs import LogFormat


class Settings(BaseSettings):
    """Read from DESPINA_* variables, which the chart sets."""

    # A mistake is told without what was given: it may be a password.
    model_config = SettingsConfigDict(
        env_prefix="DESPINA_", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    namespace: str = "default"
    """Where the operator itself lives."""
    watch_namespaces: str = ""
    """Namespaces with programs, separated by commas; the operator's own when empty."""
    runtime_image: str = "despina-runtime:dev"
    tracking_uri: ServerStr | None = None
    tracking_username: str = Field(default="", repr=False)
    tracking_password: str = Field(default="", repr=False)
    tracking_token: str = Field(default="", repr=False)
    profiles_file: Path | None = None
    cluster_domain: str = "cluster.local"
    health_port: int = 8080
    workers: int = 8
    log_format: LogFormat = "text"
    """The operator's, and that of the pods that it makes from now on."""
    order_secret: str = "despina-order-key"  # noqa: S105 - the name of a Secret
    read_secret: str = "despina-read-key"  # noqa: S105 - the name of a Secret

    @property
    def namespaces(self) -> list[str]:
        """The namespaces to watch."""
        return _names(self.watch_namespaces) or [self.namespace]

    @property
    def tracking_credentials(self) -> Credentials:
        """For the server of `tracking_uri`, and no other."""
        given = (self.tracking_username, self.tracking_password, self.tracking_token)
        return Credentials(*(text.strip() for text in given))

    def defaults(self, order_keys: tuple[str, ...]) -> Defaults:
        """What this configuration adds to every program's spec."""
        return Defaults(
            runtime_image=self.runtime_image,
            tracking_uri=self.tracking_uri,
            profiles=read_profiles(self.profiles_file),
            order_keys=order_keys,
            cluster_domain=self.cluster_domain,
            log_format=self.log_format,
        )


class DashboardSettings(BaseSettings):
    """What `despina dashboard` reads from DESPINA_* variables, which the chart sets."""

    model_config = SettingsConfigDict(
        env_prefix="DESPINA_", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    namespace: str = "default"
    """Where the operator lives."""
    watch_namespaces: str = ""
    """Namespaces with programs, separated by commas; the operator's own when empty."""
    port: int = Field(default=8080, alias="DESPINA_DASHBOARD_PORT")
    tls_certificate: Path | None = None
    """A PEM file with the chain; one is made at the start when left out."""
    tls_key: Path | None = None
    host_names: str = "localhost"
    """Names that a certificate of its own is made for, separated by commas."""
    read_keys: Path | None = None
    """A folder with the read key's Secret."""
    read_secret: str = "despina-read-key"  # noqa: S105 - the name of a Secret
    proxy_secret: str = Field(default="", repr=False)
    """What a proxy in front shows beside the name of who asks; none is believed when left out."""
    prometheus_url: ServerStr | None = None
    """Where curves come from; from the process' own memory when left out."""
    prometheus_credentials: Path | None = None
    """A folder with a bearer token (`token`) and a certificate authority (`ca.crt`) for it, as far as there are any."""
    log_format: LogFormat = "text"

    @property
    def namespaces(self) -> list[str]:
        """The namespaces to watch."""
        return _names(self.watch_namespaces) or [self.namespace]

    @property
    def names(self) -> list[str]:
        """The names that the page is reached by."""
        return _names(self.host_names)


def _names(text: str) -> list[str]:
    return [n.strip() for n in text.split(",") if n.strip()]


def read_profiles(path: Path | None) -> dict[str, PlacementProfile]:
    """The named node pools; a mistake here stops the operator at its start, with the field's name."""
    if path is None:
        return {}
    return TypeAdapter(dict[str, PlacementProfile]).validate_python(yaml.safe_load(path.read_text()) or {})
