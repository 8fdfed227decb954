"""Figures that other tests of the same process left open are none of these tests' business."""
import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def no_figures_of_others():
    plt.close("all")
