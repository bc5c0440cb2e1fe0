"""What the verdicts of an audit hang on, in one place.

These numbers are provisional: they are to be fixed on seeds 0 to 2 of composed scenes with a known bias, and reported
on seeds 3 to 5 with other classes, backgrounds and another backbone. The truth there is that a class is biased where
its accuracy falls by 10 points or more, the interval clear of 0, when its true backgrounds are swapped.
"""

LEAST_IMAGES = 20
"""Of a class, below which nothing is said."""
FALL = 0.1
"""Of the accuracy before other backgrounds, from which on the background counts."""
DROP = 0.1
"""Of the probability without the object, beyond the control's, from which on the object counts."""
MOST_DOUBTED = 0.5
"""Share of a class's images whose saliency finds no object to speak of, above which it means nothing for the class."""
LEAST_AGREEMENT = 0.5
"""Mean IoU of two saliency models, below which neither is believed."""
LEAST_AREA, MOST_AREA = 0.005, 0.9
"""Shares of an image below and above which there is no object to speak of."""
MOST_FRAME = 0.5
"""Share of the frame that an object may cover."""
PART = 0.2
"""Of the largest part of a mask's area, from which on another part is an object of its own."""
OBJECT = 0.5
"""Saliency from which on a pixel is the object's, where it is removed or kept."""
MOST_OVERLAP = 0.1
"""Share of a control's shape that may lie on the object."""
