"Write figures/README.md from what lies in figures/bench. With --check, only compare."
import sys

from mgr_paper.evidence.page import page_path, page_text, write_page

if __name__ == "__main__":
    path = page_path("bench")
    if "--check" not in sys.argv: print(write_page("bench"))
    elif not path.exists() or path.read_text(encoding="utf-8") != page_text("bench"):
        sys.exit(f"{path.parent.name}/{path.name} is not what lies in figures/bench: run python scripts/figures_page.py")
