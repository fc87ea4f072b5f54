"""What the web page gives the browser beside Gradio's own: a style, and a script for taps that Gradio would lose."""

from __future__ import annotations

from utils.coloring.palette import COLORS

CSS = (  # the names of the likely colors are for screen readers
    f"#likely {{display: grid; grid-template-columns: repeat({COLORS}, 1fr); gap: 4px}}"
    "#likely button {font-size: 0; height: 36px; min-width: 0 !important; padding: 0}"
    "#likely > :not(button) {grid-column: 1 / -1; color: var(--block-label-text-color)} #colors {display: none}"
    "#examples button {height: 32px} #examples img {height: 20px; width: auto}"
    "#canvas [data-testid=status-tracker] {pointer-events: none}"  # what says "processing" would take the next tap
    "@media (max-width: 640px) {#canvas {height: 320px !important}}"
)
# Gradio ignores a tap on a picture that is still loading, as the canvas is after each hint: repeat it when it has
JS = """() => document.addEventListener("click", tap => {
    const picture = tap.target.closest("#canvas img")
    if (!picture || picture.complete) return
    tap.stopPropagation()
    picture.addEventListener("load", () => picture.dispatchEvent(new MouseEvent("click", tap)), {once: true})
}, true)"""
