"""What no number that is given may pass, wherever it comes from."""

LARGEST = (
    2**53
)  # whole numbers up to it are exact in JSON and as floats; NaN and infinity are above
LARGEST_SIDE = 2**14  # pixels of an image's side
