import pytest

from medae.planning.memory import bytes_of, in_words


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8G", 8 * 2**30),
        ("8g", 8 * 2**30),
        ("8 GiB", 8 * 2**30),
        ("8GB", 8 * 10**9),
        ("8192M", 8 * 2**30),
        ("1.5G", 3 * 2**29),
        ("512MiB", 2**29),
        ("1T", 2**40),
        ("1048576", 2**20),
        ("100 B", 100),
    ],
)
def test_amounts_of_memory(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "G", "8X", "-8G", "8,5G", "0G", "eight", "8 G G", "1e9"])
def test_what_is_no_amount(text):
    with pytest.raises(ValueError, match="is no amount of memory: write it as 8G"):
        bytes_of(text)


@pytest.mark.parametrize(
    ("size", "words"), [(8 * 2**30, "8 GiB"), (1.5 * 2**30, "1.5 GiB"), (2**20, "1 MiB"), (2**28, "0.25 GiB")]
)
def test_bytes_in_words(size, words):
    assert in_words(round(size)) == words
