"""Explains the errors of a storage or of the hub: what is missing, and the command or setting that provides it.

Each storage has its own library with its own errors, none of which must be installed: they are identified by name.
"""

from __future__ import annotations

from typing import Any

from curriculum.errors import DataError, chain_of

_LOGIN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with `aws configure`; for another provider "
    "AWS_ENDPOINT_URL as well",
    "gs": "log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING",
    "abfs": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING",
    "hf": "log in with `hf auth login`, or set HF_TOKEN",
}
_PACKAGE = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
}
_REFUSED_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
_UNREACHABLE = {
    "ConnectionError",
    "ConnectError",
    "ConnectTimeout",
    "ReadTimeout",
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
}


def storage_of(address: str) -> tuple[Any, str]:
    """The file system of an address with a scheme, and the path in it."""
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    system, path = url_to_fs(address)
    return system, str(path)


def explain(where: str, error: BaseException) -> DataError | None:
    """The refusal for `error`, raised while listing or reading `where`; None for an unknown error.

    `where` is an address with a scheme, as `s3://bucket/folder` or `hf://datasets/OWNER/NAME`.
    """
    scheme = where.partition("://")[0]
    chain = chain_of(error)
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    words = " ".join(str(one) for one in chain)
    login = _LOGIN.get(scheme, "log in to that storage as its own documentation says")
    kept = "; finished tasks are kept, and the same command resumes"
    if "GatedRepoError" in names:
        return DataError(
            f"`{where}` is gated: its terms are not accepted by the account that asks",
            hint=f"accept them at {_page(where)}, then {login}{kept}",
        )
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError"}:
        missing = "such revision" if "RevisionNotFoundError" in names else "such dataset"
        return DataError(
            f"the hub does not show `{where}`: there is no {missing}, or it is private and no valid token was sent",
            hint=f"check the name at {_page(where)}; for a private one {login}{kept}",
        )
    if names & _NO_CREDENTIALS:
        return DataError(f"no credentials for `{where}` were found", hint=login + kept)
    if scheme == "hf" and ("401" in words or "403" in words):
        return DataError(f"the hub refuses `{where}`: the token is missing or not valid", hint=login + kept)
    if ("PermissionError" in names and "://" in where) or any(word in words for word in _REFUSED_CREDENTIALS):
        return DataError(f"`{where}` is denied to the credentials that were found: {_short(error)}", hint=login + kept)
    if "ImportError" in names:
        package = _PACKAGE.get(scheme)
        named = f": {package}" if package else ""
        return DataError(
            f"reading `{where}` needs a package that is not installed{named}",
            hint=f"python -m pip install {package}" if package else _short(error),
        )
    if "Protocol not known" in words:
        return DataError(
            f"no storage has the scheme `{scheme}`",
            hint="as in `s3://BUCKET/FOLDER`, `gs://…`, `hf://datasets/OWNER/NAME`, or a folder here",
        )
    if "FileNotFoundError" in names and "://" in where:
        return DataError(
            f"there is nothing at `{where}`: no such bucket, or no such folder in it",
            hint=f"check its name; if others see it, {login}",
        )
    if names & _UNREACHABLE:
        return DataError(
            f"`{where}` cannot be reached: {_short(error)}",
            hint="check the network, and any proxy or endpoint that is set; prepared text needs none" + kept,
        )
    return None


def _page(where: str) -> str:
    name = where.partition("datasets/")[2].partition("@")[0]
    return f"https://huggingface.co/datasets/{'/'.join(name.split('/')[:2])}"


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
