"""What the forms of ``results.json`` and of published tables are made of: strict models and named ranges."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1 + 1e-6)]  # a softmax in float32 may end a little above 1
Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Above = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Difference = Annotated[float, Field(ge=-1, le=1)]
Labels = Positive | Literal["all"]


class Model(BaseModel):
    """A form whose unknown keys are errors."""

    # strict: "0.9" is no accuracy and true is no count; ints still pass as floats.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Row(Model):
    """One row of a table that may publish more than what is drawn."""

    model_config = ConfigDict(extra="ignore")
