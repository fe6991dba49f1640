"""Certificates for tests: an authority that was made a moment ago, and what it signs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Authority:
    """`pem` is what a client must trust."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        self.pem = self.folder / "authority.pem"
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        signed = self._signed(self._name, self._key, constraints, critical=True)
        self.pem.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def server(self, name: x509.GeneralName) -> ssl.SSLContext:
        """A server's context for one name or address."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate(x509.SubjectAlternativeName([name])))
        return context

    def certificate(self, names: x509.SubjectAlternativeName) -> Path:
        """A server's key and certificate for these names, in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server of a test")])
        signed = self._signed(subject, key, names, critical=False)
        file = self.folder / "server.pem"
        plain = serialization.NoEncryption()
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        file.write_bytes(secret + signed.public_bytes(serialization.Encoding.PEM))
        return file

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType, *, critical: bool
    ) -> x509.Certificate:
        at = datetime.now(UTC)
        made = x509.CertificateBuilder(
            issuer_name=self._name, subject_name=subject, public_key=key.public_key(),
            serial_number=x509.random_serial_number(), not_valid_before=at - timedelta(hours=1),
            not_valid_after=at + timedelta(days=1),
        )  # fmt: skip
        return made.add_extension(extension, critical).sign(self._key, hashes.SHA256())


HERE = x509.IPAddress(IPv4Address("127.0.0.1"))
ELSEWHERE = x509.DNSName("models.example.org")
