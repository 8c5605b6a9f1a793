"""Keys, certificates and the revocation list, by the ``cryptography`` package (extra ``devices``).

A device's name is one thing everywhere: the common name of its certificate is its MQTT user name, its topic level and the sender's name
of its messages. So the authority that signs a certificate decides who somebody is, and nothing that travels has to be believed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hosfl_async.errors import SettingsError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as problem:  # pragma: no cover - an installation without the extra
    raise SettingsError("provision", f"it needs cryptography: {problem}", mend="pip install 'hosfl-async[devices]'") from problem

CLOCK_SLACK = timedelta(minutes=5)
"""Certificates begin so much earlier, for devices whose clocks are a little behind."""

AUTHORITY_DAYS = 3650
CRL_DAYS = 30
"""A broker refuses everybody once its revocation list is older; `hosfl provision revoke` and `renew` write it anew."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its private key, as PEM."""

    certificate: bytes
    key: bytes


def new_authority(name: str, now: datetime) -> Pair:
    """A self-signed authority that may sign certificates and revocation lists, and no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    usage = _usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _certificate(subject, subject, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate, key)


def issue(authority: Pair, name: str, now: datetime, days: int, *, hosts: Iterable[str] = ()) -> Pair:
    """A certificate for ``name``: a broker's if it has ``hosts`` (names or addresses under which it is reached), else an agent's."""
    signer, signer_key = x509.load_pem_x509_certificate(authority.certificate), _key(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = [_host(host) for host in hosts]
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if alternatives else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _certificate(_name(name), signer.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()), critical=False)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return _pem(builder.sign(signer_key, hashes.SHA256()), key)


def revocation_list(authority: Pair, revoked: Iterable[tuple[int, datetime]], now: datetime) -> bytes:
    """The list of (serial number, since when) that are no longer valid, as PEM."""
    signer = x509.load_pem_x509_certificate(authority.certificate)
    builder = x509.CertificateRevocationListBuilder(signer.subject, now - CLOCK_SLACK, now + timedelta(days=CRL_DAYS))
    for serial, since in revoked:
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, since).build())
    return builder.sign(_key(authority), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a certificate says."""

    name: str
    serial: int
    begins: datetime
    ends: datetime


def facts_of(certificate: bytes) -> Facts:
    """Raises ``SettingsError`` if this is not a certificate with one common name."""
    try:
        read = x509.load_pem_x509_certificate(certificate)
        [name] = read.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError as problem:
        raise SettingsError("certificate", "not a certificate", expected="PEM with one common name", found=str(problem)) from problem
    return Facts(str(name.value), read.serial_number, read.not_valid_before_utc, read.not_valid_after_utc)


def sign(authority: Pair, text: bytes) -> bytes:
    """The authority's signature of ``text``."""
    return _key(authority).sign(text, ec.ECDSA(hashes.SHA256()))


def is_signed(authority_certificate: bytes, text: bytes, signature: bytes) -> bool:
    """Whether the authority of this certificate has signed ``text``."""
    public: Any = x509.load_pem_x509_certificate(authority_certificate).public_key()
    try:
        public.verify(signature, text, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _certificate(subject: x509.Name, issuer: x509.Name, public: Any, now: datetime, days: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key(authority: Pair) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    unencrypted = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), private)
