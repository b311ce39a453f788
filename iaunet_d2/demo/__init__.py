"""A page in the browser to try a trained model on one image; needs the extra ``demo`` (gradio)."""
