import numpy as np
from kinds import Example, Keyed

MARGINS = np.array([-1.2, 0.3, 2.5, -0.1, 1.1, 0.7], np.float32)
LABELS = np.array([0, 1, 1, 0, 1, 0])

EXAMPLES = {
    "ensloss": Keyed((MARGINS, LABELS), {"where": np.arange(6) < 5}),
    "ensloss_derivatives": Keyed((MARGINS,), {"exponent": -0.4}),
    "inverse_box_cox": Example((MARGINS,), rows=(0,), traced={"exponent": (0.4, -0.3)}),
}
