"""Settings: file, then environment, then flags; an unknown key names the near miss."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.config import ServerSettings, read_settings
from server.errors import SettingsRefused


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('bundle = "from-file"\nport = 1\nmax_queue = 1\nmax_batch = 1\n')
    settings = read_settings(
        file, {"EQUIPOISE_PORT": "2", "EQUIPOISE_MAX_QUEUE": "2", "HOME": "/x"}, {"max_queue": 3}
    )
    assert (settings.bundle, settings.max_batch) == (Path("from-file"), 1)
    assert (settings.port, settings.max_queue) == (2, 3)


def test_a_flag_that_was_not_given_changes_nothing() -> None:
    assert read_settings(None, {"EQUIPOISE_PORT": "7"}, {"bundle": "b", "port": None}).port == 7


@pytest.mark.parametrize(
    ("environment", "flags", "message"),
    [
        ({"EQUIPOISE_MAX_QEUE": "3"}, {}, "max_qeue' in the environment; did you mean 'max_queue'"),
        ({}, {"port": 70_000}, "'port' from the flags: got 70000"),
        ({"EQUIPOISE_PORT": "http"}, {}, "'port' from EQUIPOISE_PORT: got 'http'"),
        ({}, {"clock": "moon"}, "got 'moon'; input should be 'wall' or 'data-end'"),
        ({}, {"max_batch": 0}, "'max_batch' from the flags: got 0"),
        ({}, {"workers": 0}, "'workers' from the flags: got 0"),
    ],
)
def test_a_bad_setting_names_key_source_value_and_what_is_allowed(
    environment: dict[str, str], flags: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsRefused) as refused:
        read_settings(None, environment, {"bundle": "b", **flags})
    assert message in str(refused.value)


def test_what_kubernetes_tells_of_a_service_of_this_name_is_no_setting() -> None:
    told = {
        "EQUIPOISE_SERVICE_HOST": "10.0.0.1", "EQUIPOISE_SERVICE_PORT": "50051",
        "EQUIPOISE_SERVICE_PORT_GRPC": "50051", "EQUIPOISE_PORT": "tcp://10.0.0.1:50051",
        "EQUIPOISE_PORT_50051_TCP": "tcp://10.0.0.1:50051", "EQUIPOISE_PORT_50051_TCP_PORT": "50051",
    }  # fmt: skip
    assert read_settings(None, told, {"bundle": "b"}) == read_settings(None, {}, {"bundle": "b"})


def test_an_unknown_key_of_the_file_is_refused_with_the_near_miss(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('bundle = "b"\nmetric_port = 1\n')
    with pytest.raises(SettingsRefused, match=r"metric_port.*did you mean 'metrics_port'"):
        read_settings(file, {}, {})


def test_a_table_in_the_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[server]\nbundle = "b"\n')
    with pytest.raises(SettingsRefused, match=r"'server' in .*; settings are in no table"):
        read_settings(file, {}, {})


@pytest.mark.parametrize("text", ["port = ", "\xff"])
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "server.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsRefused, match=r"server\.toml"):
        read_settings(file, {}, {"bundle": "b"})


def test_a_missing_bundle_says_how_to_give_one() -> None:
    with pytest.raises(SettingsRefused, match=r"--bundle, EQUIPOISE_BUNDLE or a line"):
        read_settings(None, {}, {})


def test_the_metrics_port_can_be_switched_off() -> None:
    assert (
        read_settings(None, {"EQUIPOISE_METRICS_PORT": "off"}, {"bundle": "b"}).metrics_port is None
    )


def test_every_setting_says_what_it_means() -> None:
    silent = [name for name, field in ServerSettings.model_fields.items() if not field.description]
    assert silent == []
