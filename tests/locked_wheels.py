"""Files and requirements of the wheels in a lock, as the configured package indexes have them: `python -m` writes JSON.

Wheels of CUDA are large, so that only the ends of their archives are read.
"""

import csv
import json
import logging
import re
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, cast

UNREACHABLE = 3  # exit status
INDEXED = "vllm"  # every index has it, and hardly a folder of wheels that pip may know besides
ATTEMPTS = 3
# What a wheel's data folder is installed into, beside site-packages.
FOLDERS = {"purelib": "", "platlib": "", "scripts": "bin/", "headers": "include/", "data": "../"}


class Wheel(TypedDict):
    """What is known of a locked package.

    Attributes:
        files: hashes by path, as they are installed; none of a package that is built from its source.
        requires: its requirements.
    """

    name: str
    version: str
    files: dict[str, str] | None
    requires: list[str]


def installed_path(path: str) -> str:
    """Where a file of a wheel goes, from site-packages on."""
    in_data = re.fullmatch(r"[^/]+\.data/(\w+)/(.+)", path)
    return f"{FOLDERS[in_data[1]]}{in_data[2]}" if in_data else path


def read_wheel(archive: zipfile.ZipFile) -> tuple[dict[str, str], list[str]]:
    """Files with their hashes, and requirements."""
    (record,) = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
    folder = Path(record).parent
    rows = [row for row in csv.reader(archive.read(record).decode().splitlines()) if row]
    files = {installed_path(path): digest for path, digest, *_ in rows}
    if f"{folder}/entry_points.txt" in archive.namelist():
        entry_points = ConfigParser(delimiters=("=",))
        entry_points.read_string(archive.read(f"{folder}/entry_points.txt").decode())
        if entry_points.has_section("console_scripts"):
            files |= {f"bin/{name}": call for name, call in entry_points["console_scripts"].items()}
    metadata = HeaderParser().parsestr(archive.read(f"{folder}/METADATA").decode())
    return files, metadata.get_all("Requires-Dist") or []


def wheel(line: str, finder: Any, session: Any) -> Wheel:
    """What the index has of one line of a lock."""
    from pip._internal.network.lazy_wheel import LazyZipOverHTTP
    from pip._vendor.packaging.specifiers import SpecifierSet

    name, _, version = line.split()[0].partition("==")
    found: Wheel = {"name": name, "version": version, "files": None, "requires": []}
    for attempt in range(ATTEMPTS):
        try:
            # `===`: a build for CPUs is not taken for the release of the same number.
            candidate = finder.find_best_candidate(name, SpecifierSet(f"==={version}")).best_candidate
            if candidate is None:
                raise LookupError(f"no package index has {name}=={version}")
            link = candidate.link
            if link.is_wheel:
                file = link.file_path if link.is_file else cast("BinaryIO", LazyZipOverHTTP(link.url, session))
                with zipfile.ZipFile(file) as archive:
                    found["files"], found["requires"] = read_wheel(archive)
            return found
        except OSError:  # requests' errors are such
            if attempt + 1 == ATTEMPTS:
                raise
    raise AssertionError


def main(lock: str) -> None:
    """Writes what each line of a lock brings. Only here pip is imported: it takes distutils away from others."""
    from pip._internal.commands import create_command

    logging.disable()
    lines = [line for line in Path(lock).read_text(encoding="utf-8").splitlines() if "==" in line]
    command: Any = create_command("download")
    options, _ = command.parse_args([])
    with command.main_context(), ThreadPoolExecutor(8) as threads:
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        if not finder.find_all_candidates(INDEXED):
            sys.exit(UNREACHABLE)
        json.dump(list(threads.map(lambda line: wheel(line, finder, session), lines)), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
