"""What git and the large hosts say, and what a person is told."""

import pytest

from workers.git.errors import MAX_DETAIL_CHARS, CommandFailed, detail_of, fetch_error, local_error, push_error

URL = "https://git.example.org/owner/name"


def failed(stderr: str, stdout: str = "", reason: str = "status") -> CommandFailed:
    return CommandFailed(reason, stdout.encode(), stderr)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("fatal: repository 'https://git.example.org/owner/name/' not found\n", "repo_not_found"),
        ("remote: Repository not found.\nfatal: repository 'x' not found\n", "repo_not_found"),
        ("remote: The project could not be found.\nfatal: repository 'x' not found\n", "repo_not_found"),
        ("fatal: https://x/info/refs not valid: is this a git repository?\n", "repo_not_found"),
        ("fatal: could not read Username for 'https://x': terminal prompts disabled\n", "repo_auth_failed"),
        ("remote: Invalid username or token.\nfatal: Authentication failed for 'https://x/'\n", "repo_auth_failed"),
        ("fatal: unable to access 'x': The requested URL returned error: 403\n", "repo_auth_failed"),
        ("fatal: unable to access 'x': The requested URL returned error: 301\n", "repo_redirected"),
        ("fatal: unable to access 'x': The requested URL returned error: 503\n", "repo_unreachable"),
        ("fatal: unable to access 'x': The requested URL returned error: 429\n", "repo_unreachable"),
        ("fatal: unable to access 'x': Could not resolve host: x\n", "repo_unreachable"),
        ("fatal: unable to access 'x': Failed to connect to x port 443: Connection refused\n", "repo_unreachable"),
        ("fatal: unable to access 'x': SSL certificate problem: self-signed certificate\n", "repo_unreachable"),
        ("fatal: unable to access 'x': Failed to connect to x port 443 after 30 ms: Operation timed out\n",
         "repo_unreachable"),
        ("error: RPC failed; curl 18 transfer closed\nfatal: early EOF\nfatal: fetch-pack: invalid index-pack output\n",
         "repo_unreachable"),
        ("fatal: write error: File too large\nfatal: fetch-pack: invalid index-pack output\n", "repo_too_large"),
        ("fatal: Out of memory, malloc failed (tried to allocate 5 bytes)\n", "repo_too_large"),
        ("fatal: write error: No space left on device\n", "worker_disk_full"),
        ("error: object 1234: hasDotgit: contains '.git'\nfatal: fsck error in packed object\n", "repo_malformed"),
        ("fatal: remote error: upload-pack: not our ref 1111\n", "commit_gone"),
        ("something new\n", "git_failed"),
    ],
)  # fmt: skip
def test_a_failed_read_has_a_code_a_message_and_a_hint(said: str, code: str) -> None:
    error = fetch_error(failed(said), URL)
    assert error.code == code
    assert error.hint
    assert URL in error.message or code in {"git_failed", "worker_disk_full"}


@pytest.mark.parametrize(
    ("said", "porcelain", "code"),
    [
        ("", "!\ta:refs/heads/farhand/x\t[rejected] (stale info)\n", "push_non_fast_forward"),
        ("", "!\ta:refs/heads/farhand/x\t[rejected] (fetch first)\n", "push_non_fast_forward"),
        ("remote: error: cannot lock ref 'refs/heads/x': is at 1 but expected 2\n",
         "!\ta:refs/heads/x\t[remote rejected] (failed to update ref)\n", "push_non_fast_forward"),
        ("remote: error: GH006: Protected branch update failed for refs/heads/farhand/x.\n",
         "!\ta:refs/heads/x\t[remote rejected] (protected branch hook declined)\n", "push_rejected_protected"),
        ("remote: error: GH013: Repository rule violations found for refs/heads/farhand/x.\n",
         "!\ta:refs/heads/x\t[remote rejected] (push declined due to repository rule violations)\n",
         "push_rejected_protected"),
        ("remote: GitLab: You are not allowed to push code to protected branches on this project.\n",
         "!\ta:refs/heads/x\t[remote rejected] (pre-receive hook declined)\n", "push_rejected_protected"),
        ("", "!\ta:refs/heads/x\t[remote rejected] (refusing `ci.yml` without `workflow` scope)\n", "push_forbidden"),
        ("remote: Permission to owner/name.git denied to someone.\n", "", "push_forbidden"),
        ("remote: This repository was archived so it is read-only.\n", "", "push_forbidden"),
        ("fatal: unable to access 'x': The requested URL returned error: 403\n", "", "push_forbidden"),
        ("remote: error: GH001: Large files detected.\n",
         "!\ta:refs/heads/x\t[remote rejected] (pre-receive hook declined)\n", "push_failed"),
        ("fatal: could not read Username for 'https://x': terminal prompts disabled\n", "", "repo_auth_failed"),
        ("fatal: unable to access 'x': The requested URL returned error: 502\n", "", "repo_unreachable"),
        ("", "!\ta:refs/heads/x\t[remote rejected] (something new)\n", "push_failed"),
    ],
)  # fmt: skip
def test_a_failed_push_has_a_code_a_message_and_a_hint(said: str, porcelain: str, code: str) -> None:
    error = push_error(failed(said, porcelain), URL)
    assert error.code == code
    assert error.hint
    assert URL in error.message or code == "push_forbidden"


def test_time_and_output_that_ran_out_are_told_whatever_git_said() -> None:
    for translate in (fetch_error, push_error, local_error):
        assert translate(failed("fatal: repository not found", reason="timeout"), "x").code == "repo_timeout"
        assert translate(failed("fatal: repository not found", reason="output"), "x").code == "repo_too_large"


def test_the_detail_is_one_bounded_line_without_control_characters() -> None:
    said = (
        "warning: x\nremote: \x1b[31merror: no\x07 way\x1b[0m\r\nfatal: gone\nerror: failed to push some refs to 'x'\n"
    )
    assert detail_of(failed(said)) == "no way; gone"
    assert len(detail_of(failed("fatal: " + "x" * 10_000))) == MAX_DETAIL_CHARS
    assert detail_of(failed("")) == "git gave no reason"
