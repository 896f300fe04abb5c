"""What goes over the wire."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(max_length=1000)]
Pair = Annotated[list[int], Field(min_length=2, max_length=2)]  # a tuple's "prefixItems" is news to many tools


class Answer(BaseModel):
    """An answer with what it spent."""

    id: str = Field(description="Decision id; POST /reward takes it.")
    answer: str | None = Field(description="The answer; null where it is streamed.")
    budgets: list[int] = Field(description="Budget of every patch in raster order, in visual tokens.")
    grid: Pair | None = Field(description="Rows and columns of patches, where the model has such a grid.")
    tokens: int = Field(description="Visual tokens spent.")
    full_tokens: int = Field(description="Visual tokens at full detail.")
    explored: bool = Field(description="Whether the allocation was drawn to learn from it.")
    version: str = Field(description="Version of the policy.")
    milliseconds: dict[str, float] = Field(description="By stage.")
    fallback: str = Field(description="Why full detail was given without a decision; empty where one was made.")


class Reward(BaseModel):
    """Feedback for one answer: a number, or the known answers by which it is scored (soft VQA accuracy)."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(max_length=80, description="Decision id that POST /answer returned.")
    reward: float | None = Field(None, ge=0.0, le=1.0, allow_inf_nan=False)
    answers: list[Text] | None = Field(None, min_length=1, max_length=50)

    @model_validator(mode="after")
    def _one(self) -> Reward:
        if (self.reward is None) == (self.answers is None):
            raise ValueError("give either reward or answers")
        return self


class Rewarded(BaseModel):
    """The reward that counts for a decision."""

    id: str
    reward: float
    repeated: bool = Field(description="Whether it was known already.")


class Status(BaseModel):
    """How the server is."""

    status: str
    version: str


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str
