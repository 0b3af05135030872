//! Customers: no money by themselves.

use super::objects::{Customer, DeletedCustomer};
use super::{Call, Done, Result, State};

/// `POST /v1/customers`.
pub(super) fn create(state: &mut State, call: &Call<'_>) -> Result<Done> {
    let form = &call.form;
    let customer = state.customers.add(Customer {
        id: state.customers.next_id(),
        object: "customer",
        created: call.now_s,
        description: form.owned("description"),
        email: form.owned("email"),
        invoice_prefix: "STANDIN".to_owned(),
        metadata: form.metadata(),
        name: form.owned("name"),
        phone: form.owned("phone"),
        tax_exempt: "none",
        ..Customer::default()
    });
    Ok(Done::free(customer))
}

/// `POST /v1/customers/{id}`.
pub(super) fn update(state: &mut State, call: &Call<'_>, id: &str) -> Result<Done> {
    let customer = state.customers.get_mut(id, "id")?;
    call.form.merge_metadata(&mut customer.metadata);
    let fields = [
        ("description", &mut customer.description),
        ("email", &mut customer.email),
        ("name", &mut customer.name),
        ("phone", &mut customer.phone),
    ];
    for (name, field) in fields {
        if let Some(text) = call.form.get(name) {
            *field = Some(text.to_owned()).filter(|text| !text.is_empty());
        }
    }
    Ok(Done::free(customer))
}

/// `DELETE /v1/customers/{id}`.
pub(super) fn delete(state: &mut State, id: &str) -> Result<Done> {
    state.customers.get_mut(id, "id")?.is_deleted = true;
    show(state, id)
}

/// `GET /v1/customers/{id}`.
pub(super) fn show(state: &State, id: &str) -> Result<Done> {
    let customer = state.customers.get(id, "id")?;
    if customer.is_deleted {
        return Ok(Done::free(&DeletedCustomer { id: id.to_owned(), object: "customer", deleted: true }));
    }
    Ok(Done::free(customer))
}
