use std::collections::BTreeMap;

/// A node: properties and children in the order in which they were added.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Node {
    name: String,
    props: Vec<(String, Vec<u8>)>,
    children: Vec<Node>,
}

/// The 32-bit cells of 64-bit numbers, high half first: a `reg` or `ranges` with two address and two size cells.
pub fn cells(values: &[u64]) -> Vec<u32> {
    values.iter().flat_map(|v| [(v >> 32) as u32, *v as u32]).collect()
}

impl Node {
    /// A node with a name such as `serial@10000000`; the root's is empty.
    pub fn new(name: impl Into<String>) -> Node {
        Node { name: name.into(), ..Node::default() }
    }

    /// Its name with the unit address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a property to raw bytes, in place of one that is there.
    pub fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) -> &mut Node {
        let value = value.into();
        match self.props.iter_mut().find(|p| p.0 == name) {
            Some(p) => p.1 = value,
            None => self.props.push((name.to_owned(), value)),
        }
        self
    }

    /// An empty property, present or not.
    pub fn flag(&mut self, name: &str) -> &mut Node {
        self.set(name, Vec::new())
    }

    /// A property of 32-bit cells.
    pub fn u32s(&mut self, name: &str, values: &[u32]) -> &mut Node {
        self.set(name, values.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<u8>>())
    }

    /// A property of one cell.
    pub fn u32(&mut self, name: &str, value: u32) -> &mut Node {
        self.u32s(name, &[value])
    }

    /// A property of one number of two cells.
    pub fn u64(&mut self, name: &str, value: u64) -> &mut Node {
        self.u32s(name, &cells(&[value]))
    }

    /// A string.
    pub fn str(&mut self, name: &str, value: &str) -> &mut Node {
        self.strs(name, &[value])
    }

    /// A list of strings.
    pub fn strs(&mut self, name: &str, values: &[&str]) -> &mut Node {
        self.set(name, values.iter().flat_map(|v| v.bytes().chain([0])).collect::<Vec<u8>>())
    }

    /// A property's raw bytes.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.props.iter().find(|p| p.0 == name).map(|p| &*p.1)
    }

    /// A property's first cell.
    pub fn get_u32(&self, name: &str) -> Option<u32> {
        self.get(name)?.first_chunk().map(|b| u32::from_be_bytes(*b))
    }

    /// Takes a property away.
    pub fn remove(&mut self, name: &str) {
        self.props.retain(|p| p.0 != name);
    }

    /// Adds a child behind the others and returns it.
    pub fn add(&mut self, child: Node) -> &mut Node {
        self.children.push(child);
        self.children.last_mut().expect("just added")
    }

    /// The child of that whole name, added if there is none.
    pub fn child(&mut self, name: &str) -> &mut Node {
        match self.children.iter().position(|c| c.name == name) {
            Some(i) => &mut self.children[i],
            None => self.add(Node::new(name)),
        }
    }

    /// The node at a path below this one, such as `soc/serial@10000000`.
    pub fn find(&self, path: &str) -> Option<&Node> {
        path.split('/')
            .filter(|p| !p.is_empty())
            .try_fold(self, |n, p| n.children.iter().find(|c| c.name == p))
    }

    /// The properties in order.
    pub fn props(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.props.iter().map(|(n, v)| (n.as_str(), &**v))
    }

    /// The children in order.
    pub fn children(&self) -> &[Node] {
        &self.children
    }
}

/// Hands out phandles by name, so that a reference may be made before its target.
#[derive(Default)]
pub struct Phandles(BTreeMap<String, u32>);

impl Phandles {
    /// The phandle of what the board calls `name`; from 1 up.
    pub fn of(&mut self, name: &str) -> u32 {
        let next = self.0.len() as u32 + 1;
        *self.0.entry(name.to_owned()).or_insert(next)
    }
}
