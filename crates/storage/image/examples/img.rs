//! `img` as a program, for trying it out.
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    std::process::exit(image::img::main_as("qemu-img", &args));
}
