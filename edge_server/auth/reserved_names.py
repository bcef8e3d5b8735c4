"""Names below its domain that an edge gives to nobody whose token does not say so."""

from __future__ import annotations

from typing import Final

RESERVED: Final = frozenset(
    # RFC 2142 and the like: mail to these proves to certificate authorities that somebody owns a domain.
    ("abuse", "admin", "administrator", "hostmaster", "info", "noc", "postmaster", "root", "security", "ssladmin",
     "ssladministrator", "sslwebmaster", "sysadmin", "webmaster",
     # Programs look these up by themselves and believe what they find there.
     "autoconfig", "autodiscover", "broadcasthost", "isatap", "localdomain", "localhost", "mta-sts", "openpgpkey",
     "wpad",
     # Services that people expect to be the domain's own.
     "account", "accounts", "api", "auth", "billing", "blog", "cdn", "console", "dashboard", "dns", "docs", "edge",
     "ftp", "help", "id", "imap", "login", "mail", "mx", "ns", "ns1", "ns2", "ns3", "ns4", "oauth", "pop", "pop3",
     "proxy", "quictunnel", "secure", "signin", "smtp", "sso", "ssh", "static", "status", "support", "tunnel",
     "vpn", "webmail", "www", "www1", "www2")
)  # fmt: skip
