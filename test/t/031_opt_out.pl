# Opt-outs are carried to Mailchimp at once, wherever the address is a member (D12, R81); leaving the group subscribes
# nobody, unless the person confirms (D12). Nothing goes out for who rolls back (N1).

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 6);
my ($sim, $node) = @$crm{qw(sim node)};

sub status
{
	my ($email) = @_;
	my ($member) = grep { $_->{email_address} eq $email } @{ $sim->get("/_sim/lists/$crm->{list}/members")->{members} };
	return $member ? $member->{status} : 'none';
}

sub wait_member
{
	my ($email, $status) = @_;
	McTest::poll("$email to be $status", sub { status($email) eq $status });
	$node->wait_until("SELECT status = '$status' FROM mc_member WHERE email = '$email'", as => 'mia');
}

# ---- carried (R81, D12)

$crm->mia('BEGIN; SELECT mc_opt_out(\'candidate\', 1); ROLLBACK');
$crm->mia('SELECT mc_opt_out(\'candidate\', 2)');
wait_member('p2@example.org', 'unsubscribed');
is(status('p1@example.org'), 'subscribed', 'who rolled back opted nobody out (N1)');
is($crm->mia("SELECT state FROM mc_contact_state WHERE contact_key = '2'"), 'opted_out', 'the contact says so');
$crm->mia("SELECT mc_opt_out_email(' P3\@example.org ')");
wait_member('p3@example.org', 'unsubscribed');
$crm->ada('UPDATE candidate SET opted_out = true WHERE id = 4');
wait_member('p4@example.org', 'unsubscribed');
is($crm->mia("SELECT origin || ' ' || added_by FROM mc_group_member WHERE contact_key = '4'"), 'crm candidate',
	'the opt_out expression joins the group with origin crm');
$node->wait_until('SELECT every(carried_at IS NOT NULL) FROM mailchimp_sync.opt_out');

# ---- an answer that is lost, or a refusal, only delays it

$sim->fault(method => 'PATCH', path => '/members/', fault => 'reset_before');
$sim->fault(method => 'PATCH', path => '/members/', nth => 2, fault => { type => 'status', status => 400, json => \1 });
$crm->mia('SELECT mc_opt_out(\'candidate\', 5)');
McTest::poll('p5 to be unsubscribed', sub { eval { $crm->later(5) }; status('p5@example.org') eq 'unsubscribed' });
$sim->delete('/_sim/faults');
$node->wait_until('SELECT NOT EXISTS (SELECT FROM mc_failure)', as => 'mia');

# ---- somebody who is not there any more counts as told

$sim->post('/_sim/act', { list => $crm->{list}, email => 'p6@example.org', action => 'delete_permanent' });
$crm->mia('SELECT mc_opt_out(\'candidate\', 6)');
$node->wait_until("SELECT carried_at IS NOT NULL FROM mailchimp_sync.opt_out WHERE contact_key = '6'");

# ---- who opts out while the push that would bring them is on its way is told as soon as it is there

$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$crm->ada("INSERT INTO candidate VALUES (7, 'p7\@example.org', 'P7')");
$sim->wait_held;
$crm->mia('SELECT mc_opt_out(\'candidate\', 7)');
is(status('p7@example.org'), 'none', 'not there yet');
$sim->release;
wait_member('p7@example.org', 'unsubscribed');

# ---- the same where that push brings back somebody whom we had archived

$crm->ada('INSERT INTO candidate (id, email) VALUES (8, \'p8@example.org\'), (9, \'p9@example.org\')');
wait_member("p$_\@example.org", 'subscribed') for 8, 9;
$crm->ada('UPDATE candidate SET in_rule = false WHERE id IN (8, 9)');
wait_member("p$_\@example.org", 'archived') for 8, 9;
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$crm->ada('UPDATE candidate SET in_rule = true WHERE id = 8');
$sim->wait_held;
$crm->mia('SELECT mc_opt_out(\'candidate\', 8)');
$node->wait_until("SELECT state = 'opted_out' FROM mc_contact_state WHERE contact_key = '8'", as => 'mia');
$sim->release;
wait_member('p8@example.org', 'unsubscribed');

# ... and nobody knows whether it has arrived: told at once, and once more when it can no longer arrive
$node->query("ALTER SYSTEM SET mailchimp_sync.request_timeout = '1s'");
$node->query('SELECT pg_reload_conf()');
$crm->break_off;
$crm->run_engine;
my ($last) = sort { $b <=> $a } map { $_->{n} } $sim->journal;
$sim->fault(method => 'POST', path => '^/lists/[^/]+$', fault => { type => 'late', ms => 3000 });
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', nth => 2, when => 'before');
$crm->ada('UPDATE candidate SET in_rule = true WHERE id = 9');
$node->wait_until("SELECT EXISTS (SELECT FROM mc_request WHERE work = 'push' AND outcome = 'doubt')", as => 'mia');
$crm->mia('SELECT mc_opt_out(\'candidate\', 9)');
McTest::poll('Mailchimp to be told', sub { grep { $_->{route} =~ /^PATCH/ && defined $_->{ended} } $sim->journal(since => $last) });
McTest::poll('the old request to land', sub {
	grep { ($_->{fault} // '') eq 'late' && defined $_->{ended} } $sim->journal(method => 'POST', since => $last);
});
$sim->release;
$sim->delete('/_sim/faults');
$node->query('ALTER SYSTEM RESET mailchimp_sync.request_timeout');
$crm->later(130);
wait_member('p9@example.org', 'unsubscribed');
$node->wait_until('SELECT every(carried_at IS NOT NULL) FROM mailchimp_sync.opt_out');

# ---- who was subscribed at Mailchimp before the CRM came, and does not want mail in the CRM

$sim->post('/_sim/act', { list => $crm->{list}, email => 'p10@example.org', action => 'add' });
$crm->ada('INSERT INTO candidate (id, email, opted_out) VALUES (10, \'p10@example.org\', true), (11, \'p11@example.org\', true)');
wait_member('p10@example.org', 'unsubscribed');
$sim->post('/_sim/act', { list => $crm->{list}, email => 'p12@example.org', action => 'add' });
$crm->mia('SELECT mc_opt_out_email(\'p12@example.org\')');
$node->wait_until('SELECT every(carried_at IS NOT NULL) FROM mailchimp_sync.opt_out');
is(status('p12@example.org'), 'subscribed', 'a member that no contact stands behind is not touched (D15)');
$crm->ada('INSERT INTO candidate (id, email) VALUES (12, \'p12@example.org\')');
wait_member('p12@example.org', 'unsubscribed');
$node->wait_until('SELECT every(carried_at IS NOT NULL) FROM mailchimp_sync.opt_out');
is(status('p11@example.org'), 'none', 'who was not there is not made known there');
is($crm->mia('SELECT count(*) FROM mc_failure'), 0, 'which is no failure');

# ---- leaving the group (D12)

$crm->mia('SELECT mc_opt_in(\'candidate\', 2)');
is($crm->mia('SELECT mc_is_opted_out(\'candidate\', 2)'), 'f', 'out of the group');
$crm->mia('SELECT mc_opt_in_email(\'p3@example.org\', confirm => true)');
wait_member('p3@example.org', 'pending');
is(status('p2@example.org'), 'unsubscribed', 'leaving the group subscribes nobody');
is(join(' ', map { $_->{email} } @{ $sim->get('/_sim/mails')->{confirmations} }), 'p3@example.org',
	'with confirm Mailchimp asks the person, once');
$sim->post('/_sim/act', { list => $crm->{list}, email => 'p3@example.org', action => 'confirm' });
is(status('p3@example.org'), 'subscribed', 'who says yes is back');
$node->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.confirmation)');
is($crm->mia("SELECT count(*) FROM mc_request WHERE work = 'opt_out' AND method <> 'PATCH'"), 0, 'nothing but PATCH');

$node->stop;
done_testing();
