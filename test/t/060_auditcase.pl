# AuditCase's way, the first of docs/examples.md: the CRM leads (R56-R71, D9-D11, D13, R1, R20). Played section by section; after
# each one what became of it at Mailchimp.

use strict;
use warnings;
use McGuide;
use McTest;
use Test::More;

my $sim = McTest::Simulator->start;
my $list = $sim->post('/_sim/demo')->{lists}[0]{id};
my $node = McTest::Node->start('main', extension => 0);
my $guide = McGuide->new('docs/examples.md', chapter => 'AuditCase: the CRM leads', node => $node, sim => $sim, key => 'demo-us1');

sub run { return $node->query('CALL mc_run()', as => 'mia') }
sub reader { return $node->query($_[0], as => 'ron') }
sub act { my ($name, $action, %more) = @_; return $sim->post('/_sim/act', { list => $list, email => member($name)->{email_address}, action => $action, %more }) }
sub members { return @{ $sim->get("/_sim/lists/$list/members")->{members} } }
sub member { my ($name) = @_; return (grep { $_->{email_address} =~ /^$name\@/i } members())[0] // {} }

# One at Mailchimp: status, names, tags.
sub shown
{
	my ($name) = @_;
	my $member = member($name);
	return join '|', $member->{status} // 'none', @{ $member->{merge_fields} // {} }{qw(FNAME LNAME)}, join(',', sort @{ $member->{tags} // [] });
}

# Everything in the CRM, to see that nothing of it is written.
sub crm
{
	return $node->query('SELECT (SELECT array_agg(c ORDER BY id) FROM audit.client c), (SELECT array_agg(c ORDER BY id) FROM audit.contact c),
		(SELECT array_agg(c ORDER BY id) FROM audit.company c), (SELECT array_agg(c ORDER BY c) FROM audit.correspondence c)');
}

# -----------------------------------------------------------------------------------------------------------------
# Two kinds of person in one list
# -----------------------------------------------------------------------------------------------------------------

$guide->play($_) for "The firm's tables", 'Two kinds of person, one list', 'Look, then switch it on';
is(shown('anna'), 'subscribed|Anna|Jansen|Jaarrekening,Nieuwsbrief', 'R63, R64, R67: first name, last name, groups as tags');
is(shown('kantoor'), 'subscribed|P.|Smit|Jaarrekening,Nieuwsbrief', 'R63: initials where there is no first name; R65: the company\'s address where there is none');
is(shown('piet'), 'subscribed|Piet|Groen|Jaarrekening,Mailingen-ontvangen-nee', 'R1, R56: contact persons beside client persons; R68: who wants no mailings has the tag');
is(shown('els'), 'subscribed|Els|Mulder|Correspondentie-ontvangen-nee,Nieuwsbrief', 'R69: who is excluded has the tag');
is(shown('jan'), 'subscribed|J.|Kok|Jaarrekening', 'R63: an empty first name is none');
is(shown('truus'), 'none|||', 'R57: who is not coupled is not there');
is(scalar(members()), 5, 'and nobody else');
my @pushed = map { @{ $_->{body}{members} } } $sim->journal(route => 'POST /lists/{list_id}');
is(join(' ', map { ($_->{status_if_new} // 'nothing') . '/' . ($_->{status} // 'nothing') } @pushed), join(' ', ('subscribed/nothing') x @pushed),
	'R70: subscribed, for who is new, is all that is ever asked for');

# -----------------------------------------------------------------------------------------------------------------
# Refused, in Mailchimp's words (R62), and equal addresses (R66): the document shows both lists
# -----------------------------------------------------------------------------------------------------------------

$guide->play('What was refused');
is(shown('dirk'), 'subscribed|Dirk|Smit|', 'R62: with another address he is there');
is(reader('SELECT count(*) FROM mc_failure'), 0, 'R62: and no longer listed');
is(shown('anna'), 'subscribed|Anna|Jansen-Bos|Salaris', 'R66, D13: the other record with the address takes over');
is(reader("SELECT source || ' ' || contact_key || ' ' || state FROM mc_contact_state WHERE email ILIKE 'anna%' ORDER BY 1"),
	"client 1 not_linked\ncontact 1 in_sync", 'R66: one of the two is linked');

# -----------------------------------------------------------------------------------------------------------------
# Changes of the tables around
# -----------------------------------------------------------------------------------------------------------------

$guide->play('What changes');
is(shown('post'), 'subscribed|P.|Smit|Jaarrekening,Nieuwsbrief', 'R65: the company\'s new address');
is(shown('kantoor'), 'none|||', 'R65: in place of the old one');
is(shown('jan'), 'subscribed|J.|Kok|Jaarrekening,Nieuwsbrief', 'R67: one more group, one more tag');
is(shown('els'), 'subscribed|Els|Mulder|Nieuwsbrief', 'R69: the tag goes with the reason for it');

# -----------------------------------------------------------------------------------------------------------------
# Off the link: the document shows what the preview warns of (R59)
# -----------------------------------------------------------------------------------------------------------------

$guide->play('Off the link');
is(shown('jan'), 'archived|J.|Kok|Jaarrekening,Nieuwsbrief', 'R58, R59, D9: off the list, and what was there is kept');
$node->query('UPDATE audit.contact SET coupled = true WHERE id = 4');
run();
is(shown('jan'), 'subscribed|J.|Kok|Jaarrekening,Nieuwsbrief', 'R57, D9: coupled again, there again');

# -----------------------------------------------------------------------------------------------------------------
# One way
# -----------------------------------------------------------------------------------------------------------------

my $before = crm();
my $opted_out = reader('SELECT count(*) FROM mc_group_member');
# What Mailchimp has differs from the CRM, and the CRM leads (D14).
act('els', 'unsubscribe');
act('post', 'edit', merge_fields => { FNAME => 'Pieter' });
act('jan', 'tag', tag => 'by hand');
$guide->later(601);
run();
is(crm(), $before, 'R60: what happens at Mailchimp changes nothing in the CRM');
is(reader('SELECT count(*) FROM mc_group_member') . reader("SELECT state FROM mc_contact_state WHERE email ~ 'els'"), $opted_out . 'in_sync',
	'R60, D11: nor in the group, nor what we want');
$node->query("UPDATE audit.contact SET first_name = 'Elsje' WHERE id = 3");
run();
is(shown('els'), 'unsubscribed|Elsje|Mulder|Nieuwsbrief', 'R70, D10: nor does the CRM subscribe her again');
$guide->play('Somebody unsubscribes at Mailchimp');
is(shown('els'), 'unsubscribed|Elsje|Mulder|Mailingen-ontvangen-nee,Nieuwsbrief', 'R61: applied by hand');
is(reader("SELECT mc_is_opted_out('contact', 3)"), 't', 'R61: and in the group');
is(join(',', sort @{ member('jan')->{tags} }), 'Jaarrekening,Nieuwsbrief,by hand', 'D16: a tag put on at Mailchimp stays');

# -----------------------------------------------------------------------------------------------------------------
# One list, many campaigns
# -----------------------------------------------------------------------------------------------------------------

$guide->play('A mailing to a group');
is(join(' ', sort map { $_->{email} =~ /^(\w+)/ } @{ $sim->get('/_sim/mails')->{mails} }), 'jan post', 'R38, R71, R20: the tag\'s people of both kinds, but for who has a no-tag');

$guide->done;
done_testing();
