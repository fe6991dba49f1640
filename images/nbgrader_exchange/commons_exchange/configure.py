"""Makes the portal nbgrader's exchange, and a cage the place where a student's code is graded."""

from __future__ import annotations

from typing import Any

from nbconvert.preprocessors import ClearMetadataPreprocessor, CSSHTMLHeaderPreprocessor
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    GetGrades,
    IgnorePattern,
    LimitOutput,
    SaveAutoGrades,
)

from commons_exchange.isolated import CagedExecute, HideTests


def configure(config: Any) -> None:
    """Set every trait of ExchangeFactory, and who is in which course."""
    factory = config.ExchangeFactory
    factory.exchange = "commons_exchange.exchange.Exchange"
    factory.list = "commons_exchange.listing.ExchangeList"
    factory.fetch_assignment = "commons_exchange.student.ExchangeFetchAssignment"
    factory.submit = "commons_exchange.student.ExchangeSubmit"
    factory.fetch_feedback = "commons_exchange.student.ExchangeFetchFeedback"
    factory.release_assignment = "commons_exchange.teacher.ExchangeReleaseAssignment"
    factory.collect = "commons_exchange.teacher.ExchangeCollect"
    factory.release_feedback = "commons_exchange.teacher.ExchangeReleaseFeedback"
    config.Authenticator.plugin_class = "commons_exchange.exchange.PortalAuth"
    config.Autograde.autograde_preprocessors = [
        CagedExecute,
        IgnorePattern,
        ClearMetadataPreprocessor,
        LimitOutput,
        SaveAutoGrades,
        AssignLatePenalties,
        CheckCellMetadata,
    ]
    config.GenerateFeedback.preprocessors = [GetGrades, HideTests, CSSHTMLHeaderPreprocessor]
