"""To whom frames may go in clear, and why not."""

from ipaddress import ip_network

from fastdp.core.policy import Policy, is_in

TRUSTED = (ip_network("10.0.0.0/24"), ip_network("fd00::/8"))


def test_what_is_not_encrypted_anyway_may_go_anywhere() -> None:
    policy = Policy("auto", encrypted=False)
    assert policy.enabled
    assert policy.refusal("192.0.2.1") == ""


def test_an_encrypted_mesh_needs_trust_in_the_very_address() -> None:
    policy = Policy("auto", encrypted=True, trusted=TRUSTED)
    assert policy.enabled
    for host in ("10.0.0.7", "fd00::7", "::ffff:10.0.0.7"):
        assert policy.refusal(host) == ""
    for host in ("10.0.1.7", "2001:db8::1", "somewhere"):
        assert f"{host} is not in --trusted-subnets" in policy.refusal(host)
    assert not Policy("vxlan", encrypted=True).enabled


def test_where_the_kernel_has_esp_only_trusted_addresses_may_be_met_in_clear() -> None:
    policy = Policy("auto", encrypted=True, trusted=TRUSTED, no_esp="")
    assert policy.enabled
    assert policy.has_esp
    assert policy.refusal("192.0.2.1") == policy.refusal_in_clear("10.0.0.7") == ""
    assert policy.refusal_in_clear("192.0.2.1").startswith("encrypted mesh: VXLAN is clear text")
    assert policy.must_encrypt("192.0.2.1")
    assert not policy.must_encrypt("10.0.0.7")
    assert Policy("vxlan", encrypted=True, no_esp="").enabled
    for without in (
        Policy("off", encrypted=True, no_esp=""),
        Policy("auto", encrypted=False, no_esp=""),
        policy.without_driver("no VXLAN here"),
    ):
        assert not without.has_esp


def test_without_a_driver_its_reason_stands_for_all() -> None:
    policy = Policy("auto", encrypted=False).without_driver("no VXLAN here")
    assert not policy.enabled
    assert policy.refusal("10.0.0.7") == policy.general_refusal == "no VXLAN here"
    assert Policy("off", encrypted=False).refusal("10.0.0.7") == "--fastdp is off"


def test_no_address_is_in_no_network() -> None:
    assert not is_in("", TRUSTED)
    assert not is_in("10.0.0.7", ())
    assert is_in("fd00::1%eth0", TRUSTED)
