use super::*;

#[test]
fn n5_doubts_are_bounded_the_oldest_are_booked_and_then_leave_the_list() {
    let mut books = Books::new(Stored::default());
    let doubt = |books: &mut Books, quote| {
        let (id, open) = intent(1, 5, quote);
        drop(books.enter(&[open, ending(Some(id), End::InDoubt, Some((1, 5, 0)), &audit_row("req_1"))], NOW));
        id
    };
    let ids: Vec<IntentId> = (0..10).map(|_| doubt(&mut books, 3)).collect();
    let never = UnixMicros(0);
    assert_eq!(books.expired(never, 10, 100), vec![], "none is an hour old");
    assert_eq!(books.expired(never, 7, 100), ids[..3], "the oldest, whatever their hour");
    assert_eq!(books.expired(never, 7, 2), ids[..2]);
    for id in &ids[..4] {
        let resolution = Resolution { id: *id, verdict: Verdict::Expired, day: Day::new(5) };
        drop(books.resolve(&resolution, NOW).unwrap());
    }
    assert_eq!((books.expired(never, 6, 100), books.doubts().len()), (vec![], 10));
    let forgotten = books.forgotten(1, 100);
    assert_eq!(forgotten, ids[..3]);
    let before = books.openings();
    assert_eq!(books.forget_booked(&forgotten).count(Family::Doubts), 3);
    assert_eq!((books.openings(), books.doubts().len()), (before, 7), "what was booked stays booked");
}
